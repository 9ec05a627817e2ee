from paddleseg_psp.commands.infer import main

if __name__ == "__main__":
    main()
