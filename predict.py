from paddleseg_psp.commands.predict import main

if __name__ == "__main__":
    main()
