from paddleseg_psp.commands.val import main

if __name__ == "__main__":
    main()
